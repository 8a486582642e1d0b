"""Statistics of returns and predictions: pure float64 arithmetic on arrays, knowing neither Qlib nor pandas."""
