"""The data of CaMOPD's two scenarios (arXiv 2605.27115), made from the published datasets: docs/prepare.md."""
