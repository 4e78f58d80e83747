"""
The deploy token: only one person changes any server at a time.

Plain Python, without Salt's dunders, shared by the runners and the external pillar of this extension:

==================  ====================================================================
``page``            the wiki page as text: read the holder's line, write it, add an entry
``store``           compare-and-swap of that text: the interface, and the choice by URL
``redmine``         a store: a Redmine wiki page
``redmine_checks``  what the doctor looks at in a Redmine
``sqlite``          a store: one local file
``protocol``        acquire, release, take over: pure decisions, without input or output
``token``           the protocol carried out on a store
``history``         past holds, read back from the page's versions
``doctor``          read-only checks of the whole setup
``live``            the token's state for many gates at once: one question to the wiki
``glass``           runs that broke the glass, until the History has them
``config``          the master's ``deploytoken`` configuration, checked
``repositories``    the deploy repositories, brought up to date
``minions``         one question to many minions: who answered, who did not
``roster``          the same over salt-ssh, to those who are in the roster
``applying``        states on many minions, in batches: who did what, who failed
``reboots``         who rebooted, who is away, and reboots one after the other
``door``            the edge of every runner: arguments in, reasons and exit codes out
``errors``          one class per answer that is not success
==================  ====================================================================

Importing the package imports none of these, because every ``salt-run`` of a master imports all of its runners.
"""

__version__ = "0.1.0"
