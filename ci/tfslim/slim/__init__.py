"""The slim engine: scan, plan, apply and verify; reads and rewrites ELF files and fatbins."""
