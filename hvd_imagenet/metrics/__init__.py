"""What a run tells of itself: lines of JSON, the console, the result."""
