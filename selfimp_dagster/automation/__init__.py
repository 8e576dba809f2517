"""What runs rounds without a person: the job, the sensor that chains rounds, the nightly schedule."""
