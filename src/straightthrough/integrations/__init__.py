"""Callbacks for frameworks that train, each imported by hand: `lightning`, `transformers`."""
