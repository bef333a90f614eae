"""
A deterministic simulation: several workers, Redis and a gateway in one process, under a virtual clock.

A seed decides everything that happens, so a run that breaks a promise can be repeated step by step.

    world.py       virtual time, processes that can be killed and suspended, and which greenlet runs next
    machine.py     replaces the clocks, sleeps and random numbers of the code under test
    faults.py      what goes wrong in a run
    redis.py       Redis on fakeredis, and the connections to it, which break, lose answers and are late
    gateway.py     an Evolution API that remembers what it really sent, and the transport to it
    engine.py      the event loop of a worker
    worker.py      one worker process: our code as it is, without Celery's boot
    numbers.py     registered numbers, their changes, holds and brakes
    portfolio.py   a portfolio at Meta that some of them share, and what it promises
    people.py      producers, cancellations, opt-outs, an operator
    promises.py    what has to hold, at every step and at the end
    pace.py        what has to hold of numbers
    order.py       what has to hold of the order in which messages wait for them
    run.py         one run by its seed
    mutants.py     guards of the code, broken on purpose
    command.py     `python tests/simulation`
"""
