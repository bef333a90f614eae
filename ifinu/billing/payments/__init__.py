"""Payments: what providers report about charges, how each proves that it did, and what becomes of the charge."""
