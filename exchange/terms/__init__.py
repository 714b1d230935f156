"""Negotiation, terms and agreements. No input or output here."""
