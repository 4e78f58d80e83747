"""
One deploy, from the request to the page at its end.

=============  =================================================================================
``request``    what a person asks for, checked as a whole
``overrides``  what stands beside that in the orchestration's pillar
``record``     what one step learns for the next
``steps``      the steps, in the order of ``deploytoken/deploy.sls``
``allowed``    whether states and reboots may go on at this moment
``ending``     release or keep the token, and the commands that go on
``work``       one job at work under a hold, and nobody else
``release``    one release with everything that its History entry tells
``report``     the page at the end
``serving``    what Salt serves once the repositories have moved
``tokens``     the token of this master, as every step and every command opens it
``jobs``       which job is at work under a hold, and whether it still runs
=============  =================================================================================
"""
