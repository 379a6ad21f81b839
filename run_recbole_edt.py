"""Train and test a model: ``python run_recbole_edt.py --model=LLMEDT --dataset=cloth_sport``."""

from recbole_edt.cli import run_main

if __name__ == "__main__":
    run_main()
