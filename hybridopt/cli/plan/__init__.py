"""The command `hybridopt plan`: what is asked, what is refused, and what is answered."""
