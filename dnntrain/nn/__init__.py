"""Building blocks that several choices share, such as cost and initialization."""
