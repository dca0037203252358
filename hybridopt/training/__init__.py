"""From a file of examples to a trained model: settings, data, method, what is shown and what is left behind."""
