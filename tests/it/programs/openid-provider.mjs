// The certified `oidc-provider` with one user per login name, for tests/it/programs/oidc.rs. The settings come as JSON in
// the environment: port, clients, lifetime of access tokens in seconds, and front-channel logout URLs by client, which
// this provider does not know itself.
import { Provider } from 'oidc-provider';

const { port, clients, lifetime, frontChannel = {} } = JSON.parse(process.env.SETTINGS);
const issuer = `http://127.0.0.1:${port}`;
const counts = {};
let frames = [];

const provider = new Provider(issuer, {
  clients,
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub', 'sid'], profile: ['name', 'groups'] },
  conformIdTokenClaims: false,
  features: {
    devInteractions: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: async (ctx, form) => {
        frames = Object.entries(frontChannel).map(([client, url]) => {
          const query = new URLSearchParams({ iss: issuer, sid: ctx.oidc.session.sidFor(client) });
          return `<iframe src="${url}?${query}"></iframe>`.replaceAll('&', '&amp;');
        });
        ctx.body = `${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">yes</button>`;
      },
      postLogoutSuccessSource: async (ctx) => {
        ctx.body = `<p>Bye</p>${frames.join('')}`;
      },
    },
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    dPoP: { enabled: true },
    // Tokens for a service are JWTs.
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: async () => ({ scope: '', audience: 'api', accessTokenFormat: 'jwt' }),
    },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (_, client) => client.grantTypeAllowed('refresh_token'),
  ttl: { AccessToken: lifetime, IdToken: 300, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600 },
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, name: `User ${id}`, groups: ['ops'] }),
  }),
  // Users agree to everything.
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const id = session.grantIdFor(client.clientId);
    if (id) return provider.Grant.find(id);
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
});
provider.on('grant.success', (ctx) => {
  const type = ctx.oidc.params.grant_type;
  counts[type] = (counts[type] ?? 0) + 1;
});
provider.on('server_error', (_, error) => console.error(error));
for (const event of ['authorization.error', 'grant.error', 'backchannel.error', 'end_session.error']) {
  provider.on(event, (_, error) => console.error(event, error));
}
provider.use(async (ctx, next) => (ctx.path === '/counts' ? void (ctx.body = counts) : next()));
provider.listen(port, '127.0.0.1');
