"""Networks in the layout of Hugging Face's transformers: their sizes and weights as ours, and back."""
