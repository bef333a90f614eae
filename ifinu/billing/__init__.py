"""The régua de cobrança: charges, and the right message about each on the right day."""
