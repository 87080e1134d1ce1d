"""From what nodes counted to the figures of a trial. Pure."""
