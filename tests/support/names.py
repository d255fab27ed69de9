"""The names in Redis that a deployment has unless it is called otherwise."""

from shared.keys import Names

NAMES = Names()
