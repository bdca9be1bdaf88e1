"""The parity gate: the same models and inputs through two targets, every answer compared."""
