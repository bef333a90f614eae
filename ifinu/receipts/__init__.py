"""The gateway's webhooks: receipts, people's replies and the states of instances."""
