"""What a run left behind, as one HTML page and one JSON file."""
