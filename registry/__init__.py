"""Who takes part and what is listed: party documents, data products, analysis rules, sources."""
