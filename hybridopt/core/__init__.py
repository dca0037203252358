"""What everything else stands on: contracts, registry, errors; imports torch alone."""
