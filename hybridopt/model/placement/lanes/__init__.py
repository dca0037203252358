"""How bytes are copied to the device that computes, beside what it computes."""
