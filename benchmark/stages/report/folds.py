"""The section "Folds" of the page."""

from __future__ import annotations

from benchmark.catalog.metrics import HEADLINE
from benchmark.page.html import Table
from benchmark.stages.pooling import fold_scores
from benchmark.stages.report.results import Results


def fold_tables(results: Results) -> tuple[Table, ...]:
    """Return the sizes of the folds and the score of each method on each, or nothing."""
    count = results.context.experiment.protocol.cross_validation
    if count is None:
        return ()
    wide = fold_scores(results.context.scores(), HEADLINE).reset_index()
    wide = results.naming.table(wide).set_index(["backbone", "method"])
    wide["std of folds"] = wide.iloc[:, 1:].std(axis=1)
    order = results.ranking[["backbone", "method"]].itertuples(index=False, name=None)
    sizes = ("name", "num_train", "num_val", "num_test")
    return (
        Table(
            title="Folds",
            columns=("fold", "patches in train", "patches in val", "patches tested"),
            rows=tuple(
                tuple(item[name] for name in sizes) for item in results.evaluated["train_sets"]
            ),
            caption=(
                f"{count} folds of all patches replace the splits of the data: stratified by "
                "class, by whole scenes where scenes are known. Each fold is tested by methods "
                "that never saw it; val, a part of the others, chooses hyperparameters and epochs. "
                "Embeddings and what a backbone learns without labels (such as PCA) are the same "
                "for all folds."
            ),
        ),
        Table.from_frame(
            wide.loc[list(order)].reset_index(),
            title="Balanced accuracy on each fold",
            num_headers=2,
            caption=(
                f"Mean over seeds. '{results.train_set}' scores the predictions of all folds "
                "together: the score of the ranking. Folds share training data, so their standard "
                "deviation is no standard error of it."
            ),
        ),
    )
