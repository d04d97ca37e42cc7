"""Runs notebooks headlessly with papermill, each in a process of its own, into one run's folder.

A run resumes: a notebook that is finished with the same code, parameters and library, and whose
files are as it left them, is not executed again. ``execute.run`` runs a profile, ``sweeps.sweep``
runs it for several seeds and values, ``report.write`` writes a run's page, and ``verify.verify``
checks it. Nothing is imported here, so that the command line answers at once.
"""
