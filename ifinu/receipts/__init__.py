"""What the gateway tells by webhook: receipts, opt-outs and the state of its instances."""
