"""Indexes: FAISS behind one class, and folders of vectors and rows that change wholly or not at all.

``vector_index.py`` is the class, over ``kinds`` (the choice), ``files``, ``searcher``, ``tuning`` and ``records``; an
index folder is ``manifest``, ``folder`` (readers), ``generations``, ``changes`` and ``updates`` (writers).
"""

from __future__ import annotations

from ctxembed.index.vector_index import Ids, Neighbours, VectorIndex

__all__ = ["Ids", "Neighbours", "VectorIndex"]
