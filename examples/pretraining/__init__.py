"""What the small base model is pre-trained on: made-up text transformations, their raw text, and the byte tokenizer."""
