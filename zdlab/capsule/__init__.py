"""The virtual clock: trials inside capsules, instruction-counted machines that hold a whole lab and are repeatable."""
