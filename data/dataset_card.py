# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Dataset card in the Hub's form: licence, size, tasks, splits, features, and how the data set was made."""

from pathlib import Path

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from llmi3d.data.dataset import DATA_FOLDER
from llmi3d.data.outputs import write_whole

# Source -> (licence as the Hub names it, its terms). Rows hold images, so the licence of the images binds. For other
# sources the user has to state it.
LICENCES = {
    "kitti": ("cc-by-nc-sa-3.0", "KITTI: CC BY-NC-SA 3.0, not for commercial use."),
    "kitti_tracking": ("cc-by-nc-sa-3.0", "KITTI: CC BY-NC-SA 3.0, not for commercial use."),
    "mono3drefer": ("cc-by-nc-sa-3.0", "Images of KITTI: CC BY-NC-SA 3.0, not for commercial use."),
    "nuscenes": ("cc-by-nc-sa-4.0", "nuScenes: CC BY-NC-SA 4.0 and its terms of use, not for commercial use."),
    "objectron": ("c-uda", "Objectron: Computational Use of Data Agreement 1.0."),
    "omni3d": ("other", "Omni3D's annotations: CC BY-NC 4.0; its images have the licences of their data sets."),
    "sunrgbd": ("other", "SUN RGB-D names no licence; its authors ask to be cited."),
    "synthetic": ("apache-2.0", "Rendered by this package from its own models."),
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

TEMPLATE = """---
{{ card_data }}
---

# {{ pretty_name }}

Images, cameras, metric oriented 3D boxes, grounding expressions and questions, one row per image, in the layout of
`llmi3d.data.schema`: camera frame x right, y down, z forward, in metres; `size` is (length, height, width).

```python
from datasets import load_dataset

rows = load_dataset("PATH_OR_NAME_OF_THIS_REPOSITORY", split="{{ split }}")
```

| split | rows | MB |
| --- | --- | --- |
{{ table }}

{{ made }}

## Licence

{{ licence }} Whoever passes these rows on has to keep to it.
"""


def write_dataset_card(
    out: str | Path, folder: str | Path, source: str, rows: dict[str, int], features: datasets.Features, made: str
) -> None:
    """Write README.md.

    Args:
        out: folder for the card.
        folder: folder with the Parquet files.
        source: name of the source.
        rows: number of rows by split.
        features: of the columns.
        made: sentences on how the data set was made.
    """
    sizes = {split: sum(path.stat().st_size for path in Path(folder).glob(f"{split}-*")) for split in rows}
    total = sum(rows.values())
    licence, words = LICENCES.get(source, ("unknown", "Not stated."))
    named = {"license_name": f"{source}-terms"} if licence == "other" else {}
    title = f"IG3D rows from {source}"
    data = DatasetCardData(
        pretty_name=title,
        license=licence,
        **named,
        language="en",
        size_categories=[next((name for limit, name in SIZES if total < limit), "n>10M")],
        task_categories=["object-detection", "visual-question-answering"],
        tags=["llmi3d", "ig3d", "3d", "3d-object-detection", "image-3d-grounding"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{DATA_FOLDER}/{split}-*"} for split in rows],
            }
        ],
    )
    info = datasets.DatasetInfo(
        features=features,
        splits=[
            {"name": split, "num_bytes": sizes[split], "num_examples": count, "dataset_name": None}
            for split, count in rows.items()
        ],
        dataset_size=sum(sizes.values()),
        config_name="default",
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    card = DatasetCard.from_template(
        data,
        template_str=TEMPLATE,
        pretty_name=title,
        split=next(iter(rows)),
        table="\n".join(f"| {split} | {rows[split]:,} | {sizes[split] / 1e6:.1f} |" for split in rows),
        made=made,
        licence=words,
    )
    write_whole(Path(out) / "README.md", str(card))
