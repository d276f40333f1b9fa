"""Groups of seeds beside each other: intervals, paired differences, what it took to reach a target, spread over clients."""
