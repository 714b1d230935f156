"""Files that people write: data products, terms and questions, read into the core's own types."""
