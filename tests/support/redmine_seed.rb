# Fills a fresh, private Redmine for the tests; run with "rails runner". Writes the API keys as JSON to $SEED_KEYS.
require "json"

# No letters: their threads have connections of their own, which can find the database locked.
ActiveJob::Base.queue_adapter = :test

Setting.rest_api_enabled = "1"
Setting.default_language = "en"
Setting.notified_events = []
Setting.text_formatting = "textile"

def role(name, *permissions)
  Role.create!(name: name, permissions: permissions, assignable: true)
end

writer = role("Writer", :view_wiki_pages, :view_wiki_edits, :edit_wiki_pages)
reader = role("Reader", :view_wiki_pages, :view_wiki_edits)
# May read and write, but not see old versions: the permission that is most easily forgotten.
blind = role("Blind writer", :view_wiki_pages, :edit_wiki_pages)

keys = {}
person = lambda do |login, first, last, admin: false, status: User::STATUS_ACTIVE|
  user = User.new(firstname: first, lastname: last, mail: "#{login}@example.org", language: "en", admin: admin)
  user.login = login
  user.password = user.password_confirmation = "a long #{login} password"
  user.must_change_passwd = false
  user.save!
  keys[login] = user.api_key
  user.update_column(:status, status)
  user
end

person.call("boss", "Wiki", "Boss", admin: true)
alice = person.call("alice", "Alice", "Adams")
bob = person.call("bob", "Bob", "Brown")
carol = person.call("carol", "Carol", "Clark")
rita = person.call("rita", "Rita", "Reader")
person.call("mallory", "Mallory", "Stranger")
lou = person.call("lou", "Lou", "Locked", status: User::STATUS_LOCKED)

project = lambda do |identifier, public: false, modules: ["wiki"]|
  made = Project.new(name: identifier.capitalize, is_public: public)
  made.identifier = identifier
  made.enabled_module_names = modules
  made.save!
  if modules.include?("wiki")
    wiki = made.wiki || Wiki.new(project: made)
    wiki.start_page = "Wiki"
    wiki.save!
  end
  [[alice, writer], [bob, writer], [carol, blind], [rita, reader], [lou, writer]].each do |user, role|
    Member.create!(project: made, principal: user, roles: [role])
  end
  made
end

project.call("ocds")
project.call("open", public: true)
project.call("nowiki").update!(enabled_module_names: [])
project.call("closed")
project.call("archived")

Role.anonymous.update!(permissions: [:view_wiki_pages])
Role.non_member.update!(permissions: [:view_wiki_pages])

File.write(ENV.fetch("SEED_KEYS"), JSON.generate(keys))
