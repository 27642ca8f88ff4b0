"""The five lines of the README, on the data.toml named on the command line: `python five_lines.py data.toml OUT`."""

import sys

import finefold as ff

data_toml, out = sys.argv[1:]

data = ff.read_data(data_toml)
split = ff.make_split(data, folds=5)
run = ff.train(data, split, recipe="probe", out=f"{out}/run")
print(run.scores()["macro_f1"])
if data.spec.predict and data.spec.predict.template_csv:
    template = data.spec.folder / data.spec.predict.template_csv
    run.predict(data.spec.folder / data.spec.predict.root).to_submission(template, f"{out}/submission.csv")
