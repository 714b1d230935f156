"""Offer, agreement, plan, job, sealed result, receipt, payment: what the exchange is for."""
