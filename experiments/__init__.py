"""The harness: data, models, training, runs and tables. Imports jaxcompress; is imported by scripts."""
