"""What tests share: models, parts, trainings, restated algorithms."""
