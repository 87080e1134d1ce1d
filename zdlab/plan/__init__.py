"""From a topology to the ordered operations that build it: pure, printable, testable without root."""
