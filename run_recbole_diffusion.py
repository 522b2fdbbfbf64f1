import sys

from recbole_diffusion.cli import main

if __name__ == "__main__":  # RecBole's dataloader workers and run_recboles import this file again
    sys.exit(main(["run", *sys.argv[1:]]))
