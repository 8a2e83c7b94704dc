"""Running a twin of the model once, and writing down what every operator does to labels."""
