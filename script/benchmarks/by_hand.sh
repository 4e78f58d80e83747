#!/usr/bin/env bash
# The deploy token by hand, as a careful person would script it: for comparison, in script/bench.
#
#   DEPLOY_PAGE=https://…/wiki/Deploy_token REDMINE_KEY=… DEPLOY_NAME=Alice by_hand.sh status|acquire|release "why"
set -euo pipefail

ask() { curl --silent --show-error --fail --max-time 20 -H "X-Redmine-API-Key: $REDMINE_KEY" "$@" "$DEPLOY_PAGE.json"; }

save() {
    jq --arg text "$1" '{wiki_page: {text: $text, version: .wiki_page.version}}' <<<"$page" |
        ask -X PUT -H 'Content-Type: application/json' --data-binary @-
}

page=$(ask)
text=$(jq -r .wiki_page.text <<<"$page")
holder=$(sed -n 's/^Held by: *//p' <<<"$text")
case $1 in
    status)
        echo "$holder"
        ;;
    acquire)
        [ "$holder" = nobody ] || { echo "$holder holds the token" >&2; exit 3; }
        save "${text/Held by: nobody/Held by: $DEPLOY_NAME ($2)}"
        ;;
    release)
        [[ $holder == "$DEPLOY_NAME"* ]] || { echo "$holder holds the token" >&2; exit 4; }
        entry="* $(date -u '+%Y-%m-%d %H:%M UTC') $DEPLOY_NAME: $2"
        text=${text/Held by: $holder/Held by: nobody}
        save "${text/h2. History$'\n'/h2. History$'\n\n'$entry}"
        ;;
esac
