"""
`ifinu top`: the queues and the workers on one screen, updated every few seconds.

    workers    the answers of the workers, over Celery's remote control
    rates      a history of them and of the state of Redis -> rates per second
    model      the figures on the screen, also as JSON
    frame      model -> lines of text
    layout     what is left out of a frame on a small terminal
    screen     the terminal: keys, signals, drawing
    command    the command
"""

from ifinu.cli.top.command import top as top
