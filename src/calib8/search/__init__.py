"""What each op costs the model's own output, and the cheapest plan that keeps an accuracy budget."""
