"""A finished run or an export as a model that evaluates, predicts and exports."""
