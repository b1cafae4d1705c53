"""Write a trained model in portable forms, read it back and compare it with its source."""
