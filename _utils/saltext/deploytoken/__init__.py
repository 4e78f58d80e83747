"""
The deploy token: only one person changes any server at a time.

Plain Python, without Salt's dunders, shared by the runners, the steps of the orchestration and the external pillar:

================  ====================================================================
``errors``        one class per answer that is not success
``page``          the wiki page as text: read the holder's line, write it, add an entry
``protocol``      acquire, release, take over: pure decisions, without input or output
``stores``        compare-and-swap of the page: the interface, and one module per wiki
``token``         the protocol carried out on a store
``history``       past holds, read back from the page's versions
``people``        who is typing
``config``        the master's ``deploytoken`` configuration, checked as a whole
``doctor``        read-only checks of the whole setup
``repositories``  the deploy repositories, brought up to date together
``machines``      one question to many machines, through a master or over salt-ssh
``busy``          what a deploy would interrupt: the verdict, waiting, and consent
``gate``          the live token for many gates at once, and broken glass
``deploy``        one deploy: request, record, steps, ending and report
``cli``           the edge of every runner: arguments in, reasons and exit codes out
``events``        events on the master's bus
``values``        one parser for each kind of argument and setting
``text``          lines for people
``files``         small files under the master's cache directory
================  ====================================================================

Importing the package imports none of these, because every ``salt-run`` of a master imports all of its runners.
"""

__version__ = "0.1.0"
