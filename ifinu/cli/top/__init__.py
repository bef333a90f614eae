"""
`ifinu top`: the queues and the workers as they are now, on one screen.

    looking    Redis is looked into
    asking     the workers are asked
    reckoning  looks become rates
    figures    what is shown
    drawing    figures become lines, as many and as wide as there is room for
    fitting    what is left out where there is none
    screen     the terminal
    watching   the command
"""

from ifinu.cli.top.command import top as top
