"""Docker images: find or set up an engine, provide bases, build, and measure."""
