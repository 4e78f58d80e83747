"""
Have the repositories that are deployed from up to date, as a step of an orchestration.

.. versionadded:: 0.1.0

.. code-block:: yaml

    repositories:
      deployrepos.latest: []

See the ``deployrepos`` runner for what this does, how it is configured, and what it refuses. This state is for the
master (``salt-run state.orchestrate``), where the runner and its configuration are.
"""


def latest(name, test=False):
    """
    Bring every configured repository up to date, or none of them, and fail.

    name
        Not used: the repositories are in the master's configuration.

    test
        Only say what is behind, as ``test=True`` for the whole orchestration does.

    With ``test=True``, says what is behind; it fetches to know that, and changes nothing else.

    .. code-block:: yaml

        repositories:
          deployrepos.latest: []

    Changes are, by repository, the ``old`` and ``new`` commit and the ``subjects`` of what came in. A refused
    repository makes the result false, and the comment says why.
    """
    ret = {"name": name, "result": False, "comment": "", "changes": {}}
    test = test or __opts__["test"]
    function = "deployrepos.status" if test else "deployrepos.update"
    answer = __salt__["deployrunner.call"](function)
    found = answer.get("repositories")
    if "failure" in answer or found is None:
        ret["comment"] = answer.get("failure", f"The runner {function} did not say which repositories there are")
        return ret
    if not found:
        ret["result"] = True
        ret["comment"] = answer["message"]
        return ret
    for key, item in found.items():
        if test and (item["behind"] or "on_branch" in item):
            ret["changes"][key] = {"behind": item["behind"], "subjects": item["subjects"]}
            if "on_branch" in item:
                ret["changes"][key]["branch"] = {"old": item["on_branch"], "new": item["branch"]}
        elif not test and (item["before"] != item["after"] or "was_on_branch" in item):
            ret["changes"][key] = {"old": item["before"], "new": item["after"], "subjects": item["subjects"]}
            if "was_on_branch" in item:
                ret["changes"][key]["branch"] = {"old": item["was_on_branch"], "new": item["branch"]}
    names = ", ".join(ret["changes"])
    if not names:
        ret["result"] = True
        ret["comment"] = f"Up to date: {', '.join(found)}"
    elif test:
        ret["result"] = None
        ret["comment"] = f"Would be updated: {names}"
    else:
        ret["result"] = True
        ret["comment"] = f"Updated: {names}"
    return ret
