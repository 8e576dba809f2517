from selfimp_dagster.cli import main

main()
