"""
Every Prometheus series, by the process that serves it.

    sending     a worker: what becomes of messages, how long it takes, at which pace
    receiving   the webhook application: what the gateway tells
    recording   who writes the ledger: how far it is
    queues      the exporter: what is in Redis, the ledger and the gateway, whoever runs
    serving     `/metrics`

No label holds a phone, a name, a text or an id, and each comes from a bounded set.
"""
