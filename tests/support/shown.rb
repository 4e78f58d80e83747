# Shows texts as Redmine's wiki does, until its input ends: {"formatting", "text"} on a line comes in, its HTML goes out.
require 'json'

$stdout.sync = true
User.current = User.where(admin: true).first
controller = WikiController.new
controller.request = ActionDispatch::Request.new(Rack::MockRequest.env_for('http://127.0.0.1/projects/open/wiki'))
view = controller.view_context
project = Project.find('open')
formatting = nil
Setting.define_singleton_method(:text_formatting) { formatting }

$stdin.each_line do |line|
  asked = JSON.parse(line)
  formatting = asked['formatting']
  $stdout.puts(JSON.generate(view.textilizable(asked['text'], project: project).to_s))
end
