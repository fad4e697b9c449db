// Tests are TypeScript, run as CommonJS: jest's ES module mode needs an experimental flag of Node and leaks modules.
// The package itself is ES modules only; __test__/api/package.test.ts checks that, outside jest's realm.
export default {
  testEnvironment: '<rootDir>/scripts/jest/environment.cjs',
  testMatch: ['<rootDir>/__test__/**/*.test.ts'],
  transform: {
    '\\.ts$': [
      '@swc/jest',
      {
        jsc: {
          parser: { syntax: 'typescript', explicitResourceManagement: true },
          target: 'es2022',
        },
        module: { type: 'commonjs' },
        sourceMaps: 'inline',
      },
    ],
  },
  moduleNameMapper: {
    '^@remotemedia/webrtc$': '<rootDir>/src-ts/index.ts',
    // TypeScript names its own files by the name they get in dist/.
    '^(\\.{1,2}/.*)\\.js$': '$1',
  },
  modulePathIgnorePatterns: ['<rootDir>/(dist|target|npm|bench|\\.cache)/'],
  // Connections, browsers and codecs share the machine's cores: one file at a time keeps timings meaningful.
  maxWorkers: 1,
  testTimeout: 20_000,
}
